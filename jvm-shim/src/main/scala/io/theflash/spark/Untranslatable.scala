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

/** What every session gets that is made with the jar: META-INF/services names it. */
final class Extensions extends SparkSessionExtensionsProvider {
  override def apply(extensions: SparkSessionExtensions): Unit = {
    extensions.injectPreCBORule(_ => Regrouped)
    extensions.injectPreCBORule(_ => KeepUntranslatable)
  }
}

/** Keeps with Spark what it fails to translate for a source.
  *
  * Spark translates filters, aggregates and orders before it asks the source. It raises where an
  * operand of AND, OR or NOT is no predicate to it (a NULL, a cast to BOOLEAN), and does not come to
  * an end where the optimizer could not compute a constant (`1 / 0` in a branch of a CASE). It takes
  * the count of a literal for that of all rows, also where it is DISTINCT. This rule runs right
  * before that, over the plans of our tables, and puts such expressions into a `Kept`, which is not
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
    case done: Kept                               => done
    case told if translated(told).contains(true) => told
    case _ =>
      expression.mapChildren(kept) match {
        case inner @ (_: NamedExpression | _: AggregateFunction | _: Generator | _: Unevaluable) =>
          inner
        case inner if translated(inner).contains(false) => Kept(inner)
        case inner                                      => inner
      }
  }

  /** Whether Spark translates all of it; None: it does not, and does not fail. */
  private def translated(expression: Expression): Option[Boolean] = {
    // The definition of a window has no type, and says so by raising.
    val isCondition = expression.resolved && Try(expression.dataType).toOption.contains(BooleanType)
    try
      new V2ExpressionBuilder(expression, isCondition).build().map { made =>
        !isCondition || made.isInstanceOf[Predicate]
      }
    catch { case NonFatal(_) => Some(false) }
  }
}

/** Its child, which sources do not get to see. */
private[spark] final case class Kept(child: Expression) extends TaggingExpression {
  override def foldable: Boolean = false

  override def contextIndependentFoldable: Boolean = false

  override def toString: String = child.toString

  override def sql: String = child.sql

  override protected def withNewChildInternal(newChild: Expression): Kept = copy(newChild)
}
