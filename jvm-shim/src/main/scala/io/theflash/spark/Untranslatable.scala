package io.theflash.spark

import scala.util.Try
import scala.util.control.NonFatal

import org.apache.spark.sql.catalyst.expressions.aggregate.{
  AggregateExpression,
  AggregateFunction,
  Count
}
import org.apache.spark.sql.catalyst.expressions.{
  Expression,
  Generator,
  Literal,
  NamedExpression,
  TaggingExpression,
  Unevaluable
}
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.catalyst.util.V2ExpressionBuilder
import org.apache.spark.sql.connector.expressions.filter.Predicate
import org.apache.spark.sql.execution.datasources.v2.DataSourceV2Relation
import org.apache.spark.sql.types.BooleanType
import org.apache.spark.sql.{SparkSessionExtensions, SparkSessionExtensionsProvider}

/** Extensions of every session with the jar, registered in META-INF/services. */
final class Extensions extends SparkSessionExtensionsProvider {
  override def apply(extensions: SparkSessionExtensions): Unit = {
    extensions.injectPreCBORule(_ => Regrouped)
    extensions.injectPreCBORule(_ => KeepUntranslatable)
  }
}

/** Optimizer rule that leaves expressions to Spark that it fails to translate for a source.
  *
  * Spark translates filters, aggregates and orders before it calls the source. It raises if an
  * operand of AND, OR or NOT is not a predicate (a NULL, a cast to BOOLEAN), and does not terminate
  * if the optimizer could not compute a constant (`1 / 0` in a branch of a CASE). It treats the
  * count of a literal as the count of all rows, even with DISTINCT. This rule runs immediately
  * before, on plans with theflash tables, and wraps such expressions in `Kept`, which is not
  * translated.
  */
private[spark] object KeepUntranslatable extends Rule[LogicalPlan] {
  override def apply(plan: LogicalPlan): LogicalPlan = plan.transform {
    case node if node.exists(isPushedTo) =>
      node.mapExpressions(expression => kept(expression.transformUp(computed.orElse(counted).orElse(zoned))))
  }

  private def computed: PartialFunction[Expression, Expression] = {
    case constant if constant.contextIndependentFoldable && !constant.isInstanceOf[Literal] =>
      Kept(constant)
  }

  private def counted: PartialFunction[Expression, Expression] = {
    case each @ AggregateExpression(Count(Seq(one: Literal)), _, true, _, _) =>
      each.copy(aggregateFunction = Count(Seq(Kept(one))))
  }

  private def zoned: PartialFunction[Expression, Expression] =
    Function.unlift((expression: Expression) => Zoned.of(expression))

  private def isPushedTo(node: LogicalPlan): Boolean = node match {
    case relation: DataSourceV2Relation => relation.table.isInstanceOf[TheFlashTable]
    case _                              => false
  }

  private def kept(expression: Expression): Expression = expression match {
    case done: Kept                                => done
    case whole if translated(whole).contains(true) => whole
    case _ =>
      expression.mapChildren(kept) match {
        case inner @ (_: NamedExpression | _: AggregateFunction | _: Generator | _: Unevaluable) =>
          inner
        case inner if translated(inner).contains(false) => Kept(inner)
        case inner                                      => inner
      }
  }

  /** Whether Spark translates all of an expression; None: it does not, without failing. */
  private def translated(expression: Expression): Option[Boolean] = {
    // The definition of a window has no type and raises.
    val isCondition = expression.resolved && Try(expression.dataType).toOption.contains(BooleanType)
    try
      new V2ExpressionBuilder(expression, isCondition).build().map { made =>
        !isCondition || made.isInstanceOf[Predicate]
      }
    catch { case NonFatal(_) => Some(false) }
  }
}

/** Wrapper that hides its child from sources. */
private[spark] final case class Kept(child: Expression) extends TaggingExpression {
  override def foldable: Boolean = false

  override def contextIndependentFoldable: Boolean = false

  override def toString: String = child.toString

  override def sql: String = child.sql

  override protected def withNewChildInternal(newChild: Expression): Kept = copy(newChild)
}
